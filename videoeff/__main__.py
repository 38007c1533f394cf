"""``python -m videoeff``."""

from videoeff.cli import main

if __name__ == "__main__":
    main()
