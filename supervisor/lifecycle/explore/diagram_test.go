package explore

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the state diagram into docs/")

const diagramFile = "../../../docs/states.md"

// TestDiagramIsCurrent draws the machine from what it does in the explorer's
// worlds, and compares that with the drawing in docs/. Run with -update after
// a change of the machine.
func TestDiagramIsCurrent(t *testing.T) {
	if testing.Short() {
		t.Skip("needs more states than -short explores")
	}
	seen := Transitions{}
	for _, s := range Setups() {
		Exhaust(s, seen.Watch(s.Config), Limits{States: 60_000})
	}
	var drawing bytes.Buffer
	drawing.WriteString("```mermaid\n")
	seen.Diagram(&drawing)
	drawing.WriteString("```\n")

	page, err := os.ReadFile(diagramFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := bytes.Cut(page, []byte("```mermaid\n"))
	_, after, closed := bytes.Cut(rest, []byte("```\n"))
	if !found || !closed {
		t.Fatalf("%s has no mermaid block to compare with", diagramFile)
	}
	if want := string(before) + drawing.String() + string(after); want != string(page) {
		if *update {
			if err := os.WriteFile(diagramFile, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("%s is not what the machine does now; run this test with -update. Now:\n%s", diagramFile, strings.TrimSpace(drawing.String()))
	}
}
