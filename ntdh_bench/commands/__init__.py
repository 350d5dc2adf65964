"""One module per command, each with ``main(argv) -> exit status``, imported when it is called."""
