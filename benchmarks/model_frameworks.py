"""One model in both frameworks: the same weights, adapters on the same linear maps, the same inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LORA_RANK, LORA_ALPHA = 8, 16
ADAPTERS = "adapters.npz"


class JaxModel:
    """This project's model as a function.

    Attributes:
      functional: the `Functional` that embeds.
      roles: path to `Role`.
      parameters: path to array.
      size: parameters altogether.
    """

    def __init__(self, config: Any, directory: Path | None, compute: Any, *, lora: bool, trains: bool = True) -> None:
        """
        Args:
          config: of the model.
          directory: holds its weights; random ones if None.
          compute: `ega_jax.models.Compute`.
          lora: whether it has adapters, which alone are trained then; random as `save_adapters` writes them.
          trains: whether anything is trained; what is not may be held in a narrower type.
        """
        from ega_jax.models import LoraConfig, build
        from ega_jax.models.functional import Functional
        from ega_jax.training.config import ModelSettings
        from ega_jax.training.roles import Role, held_dtypes, roles_of

        adapters = LoraConfig(rank=LORA_RANK if lora else 0, alpha=LORA_ALPHA)
        settings = ModelSettings(dtype=compute.dtype, lora=adapters)
        self.functional = Functional(lambda rngs: build(config, rngs=rngs, compute=compute, lora=adapters))
        paths = self.functional.parameters
        self.roles = roles_of(paths, settings) if trains else dict.fromkeys(paths, Role.FROZEN)
        dtypes = held_dtypes(self.functional, self.roles, settings)
        if directory is None:
            self.parameters = self.functional.initialize(0, dtypes=dtypes)
        else:
            drawn = [path for path, role in self.roles.items() if role is Role.ADAPTER]
            given = self.functional.load(directory, dtypes=dtypes)
            self.parameters = {**given, **self.functional.initialize(0, paths=drawn)}
        self.size = sum(leaf.size for leaf in paths.values())

    def state(self, optimizer: Any) -> dict[str, Any]:
        """The trainer's state before the first step."""
        from ega_jax.training.step import initial_state

        return initial_state(self.parameters, optimizer, self.roles)


class TorchModel:
    """transformers' model, with peft's adapters.

    Attributes:
      trained: the parameters that have gradients.
      size: parameters altogether.
    """

    def __init__(self, directory: Path, device: str, *, lora: bool) -> None:
        import torch
        import transformers

        self._device = device
        self._dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = transformers.LlavaOnevisionModel.from_pretrained(directory, dtype=self._dtype).to(device)
        if lora:
            import peft

            adapters = peft.LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=r".*language_model.*_proj")
            model = peft.get_peft_model(model, adapters)
        self.model = model
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.size = sum(parameter.numel() for parameter in model.parameters())

    def load_adapters(self, directory: Path) -> None:
        """Puts the adapters of `save_adapters` in the place of peft's own random ones."""
        import torch

        drawn, places = dict(np.load(directory / ADAPTERS)), dict(self.model.named_parameters())
        for name, value in drawn.items():
            places[name].data.copy_(torch.tensor(value))
        adapters = {name for name in places if ".lora_" in name}
        assert adapters == set(drawn), sorted(adapters ^ set(drawn))

    def given(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """A batch as transformers wants it."""
        import torch

        inputs = {
            "input_ids": torch.tensor(arrays["input_ids"], dtype=torch.long),
            "attention_mask": torch.tensor(arrays["attention_mask"], dtype=torch.long),
        }
        if len(arrays["tiles"]):
            rows, side = len(arrays["input_ids"]), arrays["tiles"].shape[1]
            tiles = arrays["tiles"].reshape(rows, -1, side, side, 3).transpose(0, 1, 4, 2, 3)
            inputs |= {
                "pixel_values": torch.tensor(tiles, dtype=self._dtype),
                "image_sizes": torch.tensor([[side, side]] * rows),
                "batch_num_images": torch.ones(rows, dtype=torch.long),
            }
        return {name: value.to(self._device) for name, value in inputs.items()}

    def embed(self, inputs: dict[str, Any]) -> Any:
        """Unit rows, float32."""
        import torch

        hidden = self.model(**inputs, use_cache=False).last_hidden_state
        last = inputs["attention_mask"].sum(1) - 1
        return torch.nn.functional.normalize(hidden[torch.arange(len(last)), last].float(), dim=-1)


def save_adapters(config: Any, directory: Path) -> None:
    """Writes the adapters that `JaxModel` begins with, under peft's names and in its layout."""
    from ega_jax.models import Compute

    model = JaxModel(config, directory, Compute(), lora=True)
    named = {}
    for path, value in model.parameters.items():
        if match := re.fullmatch(r"language_model/decoder/layers/(.*)/lora/([ab])", path):
            module, name = match[1].replace("/", "."), f"lora_{match[2].upper()}"
            for layer, one in enumerate(np.asarray(value)):
                # Ours are x A B, peft's B A x.
                named[f"base_model.model.language_model.layers.{layer}.{module}.{name}.default.weight"] = one.T
    np.savez(directory / ADAPTERS, **named)
