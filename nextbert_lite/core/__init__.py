"""What the lessons build: each file is the code of its lesson."""
