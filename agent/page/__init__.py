"""The web page: plain files served by the agent itself."""
