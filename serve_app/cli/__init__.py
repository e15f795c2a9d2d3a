"""The command line: captions of files, the batch job, the web page, keys."""
