"""``python -m videoeff``."""

from videoeff.cli.main import main

if __name__ == "__main__":
    main()
