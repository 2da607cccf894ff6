"""The Crosslayer Transcoder: sparse features that are read at many layers and written in the place of many MLPs."""
