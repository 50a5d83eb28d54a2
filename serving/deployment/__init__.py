"""Files that put an exported model behind TF Serving in containers: Compose and Kubernetes."""
