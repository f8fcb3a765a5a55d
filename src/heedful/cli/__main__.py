"""``python -m heedful.cli``, as torchrun starts it."""

from heedful.cli.entry import main

if __name__ == "__main__":
    main()
