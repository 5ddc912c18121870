"""The walk under Prefect: the flow, its form, and the servers."""
