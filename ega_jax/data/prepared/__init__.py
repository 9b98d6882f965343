"""Data prepared once: encoded pictures inside ArrayRecord files, read at random without a small file in sight.

    DIR/mmeb-<split>-<subset>.array_record-00000-of-00004  rows, as tf.train.Example messages
    DIR/dataset_info.json, features.json                   what TFDS needs to read them as a data source
    DIR/prepared.json                                      subsets, counts, what was left out and mended
    DIR/outline/                                           each shard without its pictures: texts, sizes, hashes
    DIR/index/                                             token lengths per tokenizer, made when first needed

`write.py` prepares, `read.py` reads; the readers of `ega_jax.data.mmeb` know such a directory and hand it on.
"""
