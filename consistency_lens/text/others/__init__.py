"""Text lenses that others have trained and published, read into ours."""
