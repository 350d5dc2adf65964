"""Words and config files become objects; what is wrong with them becomes one clear line."""
