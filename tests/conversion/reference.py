"""Embeddings by torch transformers, of exported directories and by the program of their model card."""

import re

import torch
import transformers
from transformers.processing_utils import ProcessorMixin


def loaded(directory):
    """The model of a directory, after making sure that it is whole."""
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


def processor_without_torchvision(directory):
    """What `AutoProcessor.from_pretrained` gives where torchvision is installed, which video processors need."""
    check = ProcessorMixin.check_argument_for_proper_class
    ProcessorMixin.check_argument_for_proper_class = lambda *args, **options: None
    try:
        parts = {
            "image_processor": transformers.AutoImageProcessor.from_pretrained(directory, backend="pil"),
            "tokenizer": transformers.AutoTokenizer.from_pretrained(directory),
            "video_processor": None,
        }
        if type(parts["image_processor"]).__name__.startswith("Qwen2VL"):  # an adapter has no config.json
            return transformers.Qwen2VLProcessor(**parts)
        settings, _ = transformers.LlavaOnevisionProcessor.get_processor_dict(directory)
        names = ("num_image_tokens", "vision_feature_select_strategy", "vision_aspect_ratio")
        return transformers.LlavaOnevisionProcessor(**parts, **{name: settings[name] for name in names})
    finally:
        ProcessorMixin.check_argument_for_proper_class = check


def embed_by_card(directory, items, monkeypatch):
    """Runs the first program of a directory's model card, and its `embed` on (text, images) pairs."""
    card = (directory / "README.md").read_text(encoding="utf-8")
    program = re.search(r"^```python\n(.*?)^```$", card, re.S | re.M)[1]
    monkeypatch.chdir(directory)
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", processor_without_torchvision)
    names = {}
    exec(compile(program, "README.md", "exec"), names)
    return torch.stack([names["embed"](text, images) for text, images in items]).numpy()
