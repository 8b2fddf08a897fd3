// Completions writes the shell completions of gracerun and gracemon into a
// directory, from the tables that their --help is printed from. gracelab prints
// its own (`gracelab completion SHELL`).
//
//	go run ./packaging/completions DIR
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"gracerun.io/shim/usage"
	"gracerun.io/supervisor/cmdline"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: completions DIR")
		os.Exit(2)
	}
	for name, text := range scripts() {
		path := filepath.Join(os.Args[1], name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
		if err != nil {
			fmt.Fprintln(os.Stderr, "completions:", err)
			os.Exit(1)
		}
	}
}

// scripts gives the files by the path that each has below a directory for all.
func scripts() map[string]string {
	return map[string]string{
		"bash/gracerun":      bashGracerun(),
		"bash/gracemon":      bashGracemon(),
		"zsh/_gracerun":      zshGracerun(),
		"zsh/_gracemon":      zshGracemon(),
		"fish/gracerun.fish": fishGracerun(),
		"fish/gracemon.fish": fishGracemon(),
	}
}

// The commands of the wrapped runtimes that gracerun only hands on.
var handedOn = []string{"checkpoint", "exec", "ps", "restore", "spec", "update"}

// containers lists the IDs that gracerun knows, one a line, in any shell.
const containers = `for d in "${GRACERUN_STATE_DIR:-/run/gracerun}"/*/*/; do [ -d "$d" ] && basename "$d"; done 2>/dev/null`

// monitorOptions are gracemon's, as its --help lists them.
func monitorOptions() (options []usage.Option) {
	_, err := cmdline.Parse([]string{"--help"})
	var exit *cmdline.Exit
	if !errors.As(err, &exit) {
		panic("gracemon --help prints no help")
	}
	line := regexp.MustCompile(`(?m)^  (?:-(.), )?--([a-z-]+)(?:=(\S+))? +(.*)$`)
	for _, m := range line.FindAllStringSubmatch(exit.Stdout, -1) {
		options = append(options, usage.Option{Short: m[1], Name: m[2], Value: m[3], Text: m[4]})
	}
	return options
}

func spellings(options []usage.Option) string {
	var words []string
	for _, o := range options {
		words = append(words, "--"+o.Name)
		if o.Short != "" {
			words = append(words, "-"+o.Short)
		}
	}
	return strings.Join(words, " ")
}

func takesValue(options []usage.Option) string {
	var words []string
	for _, o := range options {
		if o.Value == "" {
			continue
		}
		words = append(words, "--"+o.Name)
		if o.Short != "" {
			words = append(words, "-"+o.Short)
		}
	}
	return strings.Join(words, "|")
}

func commandNames() string {
	var names []string
	for _, c := range usage.Commands {
		names = append(names, c.Name)
	}
	return strings.Join(append(names, handedOn...), " ")
}

// --- bash

func bashGracerun() string {
	var b strings.Builder
	b.WriteString(`# bash completion of gracerun
_gracerun() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= i
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		` + takesValue(usage.Globals) + `) ((i++)) ;;
		-*) ;;
		*) command=${COMP_WORDS[i]}; break ;;
		esac
	done
	COMPREPLY=()
	if [[ -z $command ]]; then
		case $prev in
		--root) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
		--log) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
		--log-format) mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$cur"); return ;;
		esac
		mapfile -t COMPREPLY < <(compgen -W '` + commandNames() + ` ` + spellings(usage.Globals) + `' -- "$cur")
		return
	fi
	local options=
	case $command in
`)
	for _, c := range usage.Commands {
		fmt.Fprintf(&b, "\t%s) options='%s --help' ;;\n", c.Name, spellings(c.Options))
	}
	b.WriteString(`	esac
	case $prev in
	-b|--bundle) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
	-f|--config|--pid-file|--console-socket) [[ $command == delete ]] || { mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return; } ;;
	-s|--signal) [[ $command == stop ]] && { mapfile -t COMPREPLY < <(compgen -A signal -- "$cur"); return; } ;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
	elif [[ $command == kill && $prev != kill && $prev != -* ]]; then
		mapfile -t COMPREPLY < <(compgen -A signal -- "$cur")
	else
		mapfile -t COMPREPLY < <(compgen -W "$(` + containers + `)" -- "$cur")
	fi
}
complete -F _gracerun gracerun
`)
	return b.String()
}

func bashGracemon() string {
	return `# bash completion of gracemon
_gracemon() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
	COMPREPLY=()
	case $prev in
	` + takesValue(monitorOptions()) + `) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W '` + spellings(monitorOptions()) + `' -- "$cur")
}
complete -F _gracemon gracemon
`
}

// --- zsh

// zshSpec is one option as _arguments takes it.
func zshSpec(o usage.Option) (specs []string) {
	text := zshText(o.Text)
	names := []string{"--" + o.Name}
	if o.Short != "" {
		names = append(names, "-"+o.Short)
	}
	for _, name := range names {
		switch {
		case o.Value == "":
			specs = append(specs, "'"+name+"["+text+"]'")
		case strings.HasPrefix(name, "--"):
			specs = append(specs, "'*"+name+"=["+text+"]:"+zshAction(o)+"'")
		default:
			specs = append(specs, "'*"+name+"["+text+"]:"+zshAction(o)+"'")
		}
	}
	return specs
}

// zshText is a description as _arguments and _describe take it, within quotes.
func zshText(text string) string {
	return strings.NewReplacer("'", `'\''`, "[", `\[`, "]", `\]`, ":", `\:`).Replace(text)
}

func zshAction(o usage.Option) string {
	what := strings.ToLower(strings.NewReplacer("[", "", "]", "", ":", " ").Replace(o.Value))
	switch o.Value {
	case "DIR":
		return what + ":_directories"
	case "FILE", "PATH", "SOCKET", "PROGRAM", "[DRIVER:]PATH":
		return what + ":_files"
	case "SIGNAL":
		return what + ":_signals"
	}
	return what + ":"
}

func zshSpecs(options []usage.Option) string {
	var all []string
	for _, o := range options {
		all = append(all, zshSpec(o)...)
	}
	return strings.Join(all, " \\\n\t\t")
}

func zshGracerun() string {
	var b strings.Builder
	b.WriteString(`#compdef gracerun
_gracerun_containers() {
	local -a ids
	ids=(${(f)"$(` + containers + `)"})
	compadd -a ids
}
_gracerun() {
	local state line
	local -a commands=(
`)
	for _, c := range usage.Commands {
		fmt.Fprintf(&b, "\t\t'%s:%s'\n", c.Name, zshText(c.Summary))
	}
	for _, name := range handedOn {
		fmt.Fprintf(&b, "\t\t'%s:done by the wrapped runtime'\n", name)
	}
	b.WriteString("\t)\n\t_arguments -C \\\n\t\t" + zshSpecs(usage.Globals) + ` \
		'1:command:->command' '*::argument:->arguments'
	case $state in
	command) _describe command commands ;;
	arguments)
		case $words[1] in
`)
	for _, c := range usage.Commands {
		specs := zshSpecs(c.Options)
		if specs != "" {
			specs = " \\\n\t\t" + specs
		}
		last := ""
		if c.Name == "kill" {
			last = " '2:signal:_signals'"
		}
		fmt.Fprintf(&b, "\t\t%s) _arguments '--help[print this help]'%s \\\n\t\t'1:container:_gracerun_containers'%s ;;\n", c.Name, specs, last)
	}
	b.WriteString("\t\t*) _gracerun_containers ;;\n\t\tesac ;;\n\tesac\n}\n_gracerun \"$@\"\n")
	return b.String()
}

func zshGracemon() string {
	return "#compdef gracemon\n_arguments \\\n\t\t" + zshSpecs(monitorOptions()) + "\n"
}

// --- fish

func fishOption(b *strings.Builder, program, condition string, o usage.Option) {
	fmt.Fprintf(b, "complete -c %s%s -l %s", program, condition, o.Name)
	if o.Short != "" {
		fmt.Fprintf(b, " -s %s", o.Short)
	}
	if o.Value != "" {
		b.WriteString(" -r")
	}
	fmt.Fprintf(b, " -d %s\n", fishQuote(o.Text))
}

func fishQuote(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(text) + "'"
}

func fishGracerun() string {
	var b strings.Builder
	names := commandNames()
	b.WriteString("# fish completion of gracerun\n" +
		"function __gracerun_containers\n\tset -l base /run/gracerun\n\tset -q GRACERUN_STATE_DIR; and set base $GRACERUN_STATE_DIR\n" +
		"\tfor d in $base/*/*/\n\t\tbasename $d\n\tend\nend\n")
	none := fmt.Sprintf(" -n 'not __fish_seen_subcommand_from %s'", names)
	for _, o := range usage.Globals {
		fishOption(&b, "gracerun", none, o)
	}
	for _, c := range usage.Commands {
		fmt.Fprintf(&b, "complete -c gracerun%s -f -a %s -d %s\n", none, c.Name, fishQuote(c.Summary))
		in := fmt.Sprintf(" -n '__fish_seen_subcommand_from %s'", c.Name)
		for _, o := range c.Options {
			fishOption(&b, "gracerun", in, o)
		}
	}
	for _, name := range handedOn {
		fmt.Fprintf(&b, "complete -c gracerun%s -f -a %s -d 'done by the wrapped runtime'\n", none, name)
	}
	fmt.Fprintf(&b, "complete -c gracerun -n '__fish_seen_subcommand_from %s' -f -a '(__gracerun_containers)'\n", names)
	return b.String()
}

func fishGracemon() string {
	var b strings.Builder
	b.WriteString("# fish completion of gracemon\n")
	for _, o := range monitorOptions() {
		fishOption(&b, "gracemon", "", o)
	}
	return b.String()
}
