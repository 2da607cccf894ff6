"""The spine of every lens: what it is, how it is saved, trained and made to share a backbone."""
