package bench

import (
	_ "embed"
	"os"
	"strings"
	"text/template"
)

//go:embed document.md
var documentText string

// A reason says why a target was missed, if it was. It is kept with the name of
// the target, and shown as long as one of that name is missed.
type reason struct{ Name, Reason string }

var reasons = []reason{}

// WriteDocument writes docs/performance.md, and the figures beside it as JSON.
func (r *Report) WriteDocument(file string) error {
	t, err := template.New("document").Parse(documentText)
	if err != nil {
		return err
	}
	var results, targets, text strings.Builder
	if err := r.WriteMarkdown(&results); err != nil {
		return err
	}
	verdicts := r.verdicts()
	verdicts.title = ""
	verdicts.writeMarkdown(&targets)
	err = t.Execute(&text, map[string]any{
		"Head": r.head(), "Programs": r.Programs, "Notes": r.Notes,
		"Grace": drainGrace, "Saves": drainSaves,
		"Targets": strings.TrimSpace(targets.String()) + "\n", "Missed": r.missed(),
		"Results": strings.TrimSpace(results.String()),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		return err
	}
	var figures strings.Builder
	if err := r.WriteJSON(&figures); err != nil {
		return err
	}
	return os.WriteFile(strings.TrimSuffix(file, ".md")+".json", []byte(figures.String()), 0o644)
}

// missed gives the reasons for what was missed; a target without one says so.
func (r *Report) missed() (all []reason) {
	seen := map[string]bool{}
	for _, v := range r.Targets {
		if v.Met || v.Found == "" || seen[v.Name] {
			continue
		}
		seen[v.Name] = true
		why := reason{v.Name, "not explained yet"}
		for _, known := range reasons {
			if known.Name == v.Name {
				why = known
			}
		}
		all = append(all, why)
	}
	return all
}
