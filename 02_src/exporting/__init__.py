"""Exporting a merged model: GGUF files, and an Ollama Modelfile that renders the contract."""
