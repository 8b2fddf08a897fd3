// Command lowered takes out of a bundle's configuration what this machine cannot
// give any runtime, before `create`, and of
// a process before `exec`. CRI-O's nodes have it all; a build machine
// without CAP_SYS_RESOURCE, or without cgroup2's controllers, has not.
//
//	lowered [--no-resources] [--version=V] create ... --bundle DIR ...
//	lowered exec ... --process FILE ...
//
// A negative oomScoreAdj (which CAP_SYS_RESOURCE allows) becomes 0, this capability
// goes where it is asked for, and so do limits of huge pages. With --no-resources all of linux.resources goes. --version is for
// a runtime that refuses the version of the specification that CRI-O writes.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
			l.rewrite(filepath.Join(args[i+1], "config.json"), l.lowerConfig)
		case (arg == "--process" || arg == "-p") && i+1 < len(args):
			l.rewrite(args[i+1], l.lowerProcess)
		}
	}
}

type lowering struct {
	noResources bool
	version     string // "": as it is
}

// rewrite has a file of JSON lowered; this program ends where it cannot be.
func (l *lowering) rewrite(path string, lower func(config map[string]any)) {
	text, err := os.ReadFile(path)
	var config map[string]any
	if err == nil {
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		err = decoder.Decode(&config)
	}
	if err == nil {
		lower(config)
		text, err = json.Marshal(config)
	}
	if err == nil {
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "lowered: %s: %v\n", path, err)
		os.Exit(1)
	}
}

func (l *lowering) lowerConfig(config map[string]any) {
	if l.version != "" {
		config["ociVersion"] = l.version
	}
	if process, ok := config["process"].(map[string]any); ok {
		l.lowerProcess(process)
	}
	linux, ok := config["linux"].(map[string]any)
	if !ok {
		return
	}
	if l.noResources {
		delete(linux, "resources")
	} else if resources, ok := linux["resources"].(map[string]any); ok {
		delete(resources, "hugepageLimits")
	}
}

func (l *lowering) lowerProcess(process map[string]any) {
	if sets, ok := process["capabilities"].(map[string]any); ok {
		for name, set := range sets {
			sets[name] = without(set, "CAP_SYS_RESOURCE")
		}
	}
	if score, ok := process["oomScoreAdj"].(json.Number); ok && score[0] == '-' {
		process["oomScoreAdj"] = 0
	}
}

func without(set any, name string) any {
	list, ok := set.([]any)
	if !ok {
		return set
	}
	return slices.DeleteFunc(list, func(item any) bool { return item == name })
}
