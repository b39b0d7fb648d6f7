"""python -m converters: the same command as ``convert`` and ``decant``."""

from converters.cli import main

main(prog_name="convert")
