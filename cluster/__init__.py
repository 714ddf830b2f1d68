"""Work on a cluster, as folders of files: nothing listens on a node, nothing on it calls back."""
