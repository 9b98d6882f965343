"""Records, images, prompts and batches: everything between files on disk and arrays on the host."""
