"""What the blocks on the pages of results hold that no command of the package prints."""
