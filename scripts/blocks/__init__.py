"""Makes the blocks on the pages of results that no command of the package prints."""
