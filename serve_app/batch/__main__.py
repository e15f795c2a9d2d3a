"""`python -m serve_app.batch SOURCE --out FOLDER`: the batch job, as Ray jobs start it."""

import typer

from serve_app.cli.batch import batch

if __name__ == "__main__":
    typer.run(batch)
