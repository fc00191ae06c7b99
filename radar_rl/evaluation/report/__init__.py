"""The story in pictures: one page that anybody can open, of what a comparison found and why."""
