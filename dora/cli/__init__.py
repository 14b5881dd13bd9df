"""The command line's own rooms: words taken apart, what there is to choose from, mistakes explained."""
