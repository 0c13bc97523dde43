"""``python -m distrl`` is the command line."""

from distrl.cli import main

if __name__ == "__main__":
    main()
