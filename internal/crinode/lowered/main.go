// Command lowered takes out of a bundle's configuration what this machine cannot
// give any runtime, before `create`. CRI-O's nodes have it all; a build machine
// without CAP_SYS_RESOURCE, or without cgroup2's controllers, has not.
//
//	lowered [--no-resources] [--version=V] create ... --bundle DIR ...
//
// A negative oomScoreAdj (which CAP_SYS_RESOURCE allows) becomes 0, and limits of
// huge pages go. With --no-resources all of linux.resources goes. --version is for
// a runtime that refuses the version of the specification that CRI-O writes.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	l := lowering{}
	args := os.Args[1:]
	for i, arg := range args {
		switch {
		case arg == "--no-resources":
			l.noResources = true
		case strings.HasPrefix(arg, "--version="):
			l.version = strings.TrimPrefix(arg, "--version=")
		case (arg == "--bundle" || arg == "-b") && i+1 < len(args):
			if err := l.rewrite(filepath.Join(args[i+1], "config.json")); err != nil {
				fmt.Fprintln(os.Stderr, "lowered:", err)
				os.Exit(1)
			}
		}
	}
}

type lowering struct {
	noResources bool
	version     string // "": as it is
}

func (l *lowering) rewrite(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if l.version != "" {
		config["ociVersion"] = l.version
	}
	if process, ok := config["process"].(map[string]any); ok {
		if score, ok := process["oomScoreAdj"].(json.Number); ok && score[0] == '-' {
			process["oomScoreAdj"] = 0
		}
	}
	if linux, ok := config["linux"].(map[string]any); ok {
		if l.noResources {
			delete(linux, "resources")
		} else if resources, ok := linux["resources"].(map[string]any); ok {
			delete(resources, "hugepageLimits")
		}
	}
	if text, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
