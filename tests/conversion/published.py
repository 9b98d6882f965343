"""A published checkpoint: a small LLaVA-OneVision that transformers has written, with a head of its own."""

import json

import torch
import transformers

from ega_jax.data.tokenizer import train_tokenizer
from ega_jax.models.presets import PRESETS

from .. import micro

TEXTS = ("find the glyph named", "greek small letter alpha", "Which colour is it?", "A picture.", "red green blue")


def write_published(directory, *, dtype=torch.float32, tied=False, seed=0):
    """Writes config, weights, tokenizer and preprocessor config, and returns the directory."""
    tokenizer = train_tokenizer(TEXTS, 300)
    config = PRESETS[micro.config.model.preset].with_vocabulary(
        tokenizer.vocab_size + 8, image_token_id=tokenizer.image_id, video_token_id=tokenizer.video_id
    )
    hf = config.to_hf() | {"tie_word_embeddings": tied}
    hf["text_config"]["tie_word_embeddings"] = tied
    torch.manual_seed(seed)
    model = transformers.LlavaOnevisionForConditionalGeneration(transformers.LlavaOnevisionConfig.from_dict(hf))
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, so that none can be mistaken for another
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(directory)
    tokenizer.save(directory)
    transformers.LlavaOnevisionImageProcessorPil.from_dict(config.preprocessor_to_hf()).save_pretrained(directory)
    (directory / "processor_config.json").write_text(json.dumps(config.processor_to_hf()))
    return directory
