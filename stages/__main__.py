"""`python -m stages NAME` is `aha NAME`; dvc.yaml uses this form so that each checkout runs its own code."""

from stages.cli import main

if __name__ == "__main__":
    main()
