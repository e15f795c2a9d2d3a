"""The command line: captions of files, the service, the batch job, the web page, keys."""

import sys


def run() -> None:
    """The command `caption-serve`; says what to install if a package is missing."""
    try:
        from serve_app.cli.main import app

        app()
    except ModuleNotFoundError as error:
        sys.exit(f"This command needs the package {error.name}; install all with: pip install 'caption-serve[all]'.")
