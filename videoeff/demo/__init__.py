"""What the demonstration runs on: synthetic clips and a small segmenter trained on them."""
