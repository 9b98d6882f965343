"""Embeds texts and pictures with torch transformers, and writes them as a reference for `ega-jax convert verify`.

    pip install torch torchvision transformers safetensors pillow
    python docs/make_reference.py llava-onevision-qwen2-7b-ov-hf reference.safetensors
    ega-jax convert verify llava-onevision-qwen2-7b-ov-hf reference.safetensors

Nothing of ega_jax is imported: this is the other side of the comparison. LLaVA-OneVision, one item at a time, float32.
"""

import argparse
import json

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

TEXTS = ["A cat sits on the mat.", "Find a picture of the text: 42 € für Zoë\n", "猫が座っている。 " * 20]
QUESTIONS = ["Represent the given image.", "Which of the two is larger?"]


def pictures() -> list[Image.Image]:
    """Noise over gradients in awkward shapes, the same on every machine."""
    random = np.random.default_rng(0)
    found = []
    for width, height in ((336, 336), (900, 120), (97, 640), (1000, 1400)):
        x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        base = np.stack([x, y, 1 - x * y], axis=-1) * 200
        found.append(Image.fromarray((base + random.integers(0, 56, base.shape)).astype(np.uint8)))
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a directory that transformers loads")
    parser.add_argument("output", help="the reference file")
    parser.add_argument("--images", nargs="*", default=[], help="your own pictures, besides the built-in ones")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args(arguments)

    processor = AutoProcessor.from_pretrained(chosen.model)
    processor.image_processor = AutoImageProcessor.from_pretrained(chosen.model, backend="pil")  # not torchvision's
    model = AutoModelForImageTextToText.from_pretrained(chosen.model, dtype=torch.float32).to(chosen.device).eval()

    images = pictures() + [Image.open(path).convert("RGB") for path in chosen.images]
    items = [{"text": text, "images": []} for text in TEXTS]
    items += [{"text": QUESTIONS[0], "images": [number]} for number in range(len(images))]
    items += [{"text": QUESTIONS[1], "images": [0, 1]}]

    vectors = []
    for item in items:
        some = [images[number] for number in item["images"]]
        prompt = "<|im_start|>user\n" + "<image>\n" * len(some) + item["text"] + "<|im_end|>\n<|im_start|>assistant\n"
        inputs = processor(text=prompt, images=[some] if some else None, return_tensors="pt").to(chosen.device)
        with torch.no_grad():
            hidden = model.model(**inputs).last_hidden_state[0, -1]
        vectors.append(torch.nn.functional.normalize(hidden.float(), dim=0).cpu().numpy())
        print(f"{len(vectors)} of {len(items)}: {inputs['input_ids'].shape[1]} tokens")

    tensors = {f"image.{number}": np.asarray(image) for number, image in enumerate(images)}
    described = json.dumps({"version": 1, "items": items})
    save_file({"embeddings": np.stack(vectors), **tensors}, chosen.output, metadata={"ega_jax.reference": described})


if __name__ == "__main__":
    main()
