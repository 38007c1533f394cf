"""The reference backend: plain PyTorch, every op, every device."""
