"""What a user calls: the streaming module, the engines inside it, and what they report."""
