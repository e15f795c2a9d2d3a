"""Captioning without HTTP: the command line and the service in this process."""
