"""``python -m fanout``: the same as the console script."""

from fanout.cli import main

main()
