"""What trains and measures one config: commands, sweeps and Python users call it."""
