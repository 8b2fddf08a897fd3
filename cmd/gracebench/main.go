// Gracebench measures gracerun and gracemon side by side with what they replace.
// See docs/performance.md, which it writes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"gracerun.io/bench"
)

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "gracebench: %v\n", err)
		code = 2
	}
	os.Exit(code)
}

func run() (int, error) {
	var o bench.Options
	var document, results, sections, from string
	flag.StringVar(&o.Bin, "bin", "bin", "directory of gracerun, gracemon, gracerun-native and workload")
	flag.StringVar(&o.Newer, "newer", ".work/trixie", "tree into which packages of a later Debian were unpacked")
	flag.StringVar(&o.CRIO, "crio", ".work/crio", "directory of CRI-O and its tools, as make crio has built them")
	flag.StringVar(&o.Disk, "disk", ".work", "directory on a disk")
	flag.BoolVar(&o.Quick, "quick", false, "few rounds: shows that everything works, not what is fast")
	flag.StringVar(&document, "document", "", "write docs/performance.md to this `file`")
	flag.StringVar(&results, "results", "", "write results.txt, results.md and results.json to this `directory`")
	flag.StringVar(&sections, "only", "", "comma-separated sections to run: "+strings.Join(bench.Sections(), ", "))
	flag.StringVar(&from, "from", "", "measure nothing: write again what an earlier run has left in this results.json")
	flag.Parse()
	if flag.NArg() > 0 {
		return 0, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if sections != "" {
		o.Sections = strings.Split(sections, ",")
	}
	if from != "" {
		report, err := bench.Read(from)
		if err != nil {
			return 0, err
		}
		return 0, write(report, results, document)
	}
	if os.Geteuid() != 0 {
		return 0, fmt.Errorf("containers need root here: run it with sudo")
	}
	if code, done, err := bench.Isolate(); done || err != nil {
		return code, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o.Progress = os.Stderr
	report, err := bench.Run(ctx, o)
	if err != nil {
		return 0, err
	}
	return 0, write(report, results, document)
}

func write(report *bench.Report, results, document string) error {
	if err := report.WriteText(os.Stdout); err != nil {
		return err
	}
	if results != "" {
		if err := report.WriteAll(results); err != nil {
			return err
		}
	}
	if document != "" {
		return report.WriteDocument(filepath.Clean(document))
	}
	return nil
}
