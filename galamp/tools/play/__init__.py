"""Games to look at: `galamp record` writes a video, `galamp play` shows them in a terminal."""
