"""Prototypes of hypotheses in results/beyond/README.md: methods outside the package, which settings name by file."""
