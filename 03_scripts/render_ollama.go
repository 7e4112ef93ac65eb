// Render a Modelfile's template as Ollama would, with Go's own text/template.
//
//	go run 03_scripts/render_ollama.go < cases.json
//
// Standard input: {"template": "...", "cases": [{"messages": [{"role": "", "content": ""}]}]}; a case
// may hold "system" and "prompt" instead, as Ollama's generate call does. Standard output: the
// rendered texts as a JSON list. Ollama gives a template that mentions .Messages these variables:
// System, the contents of all system turns; Messages; and an empty Response.
package main

import (
	"encoding/json"
	"log"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role    string
	Content string
}

type conversation struct {
	Messages []message
	System   string
	Prompt   string
}

type input struct {
	Template string
	Cases    []conversation
}

// expand turns the generate call's system and prompt into turns.
func expand(c conversation) []message {
	if c.Prompt == "" {
		return c.Messages
	}
	turns := []message{}
	if c.System != "" {
		turns = append(turns, message{"system", c.System})
	}
	return append(turns, message{"user", c.Prompt})
}

// joinSystem is what Ollama calls .System: every system turn's text.
func joinSystem(turns []message) string {
	texts := []string{}
	for _, turn := range turns {
		if turn.Role == "system" {
			texts = append(texts, turn.Content)
		}
	}
	return strings.Join(texts, "\n\n")
}

func main() {
	var in input
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		log.Fatal(err)
	}
	parsed, err := template.New("").Option("missingkey=zero").Parse(in.Template)
	if err != nil {
		log.Fatal(err)
	}
	rendered := []string{}
	for _, c := range in.Cases {
		turns := expand(c)
		var text strings.Builder
		values := map[string]any{
			"System": joinSystem(turns), "Messages": turns, "Prompt": c.Prompt, "Response": "",
		}
		if err := parsed.Execute(&text, values); err != nil {
			log.Fatal(err)
		}
		rendered = append(rendered, text.String())
	}
	if err := json.NewEncoder(os.Stdout).Encode(rendered); err != nil {
		log.Fatal(err)
	}
}
