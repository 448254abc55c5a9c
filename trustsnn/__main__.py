"""`python -m trustsnn`: the command line."""

from trustsnn.cli.main import main

if __name__ == "__main__":
    main()
