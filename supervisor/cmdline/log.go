package cmdline

import "strings"

// Log says where the container's output goes. Nothing set: nowhere.
type Log struct {
	File        string // path of a file in Kubernetes' format
	Journal     bool   // to systemd's journal
	Passthrough bool   // the container has gracemon's own stdin, stdout and stderr
}

// setLog makes Log of all --log-path, and checks what goes along with it.
func (o *Options) setLog() (problem string) {
	if o.logPaths == nil {
		return "Log driver not provided. Use --log-path"
	}
	for _, path := range o.logPaths {
		if problem := o.Log.add(path); problem != "" {
			return problem
		}
	}
	if o.Log.File != "" && !o.Log.Journal {
		if o.LogTag != "" {
			return "k8s-file doesn't support --log-tag"
		}
		if o.LogLabels != nil {
			return "k8s-file doesn't support --log-label"
		}
	}
	if !o.Log.Journal {
		return ""
	}
	// The journal's entries have the first 12 characters of the ID as well.
	if len(o.ID) <= 12 {
		return "Container ID must be longer than 12 characters"
	}
	for _, label := range o.LogLabels {
		if problem := checkLabel(label); problem != "" {
			return problem
		}
	}
	return ""
}

// add reads one --log-path: DRIVER, DRIVER:PATH, PATH or :PATH. Of several files
// the last one counts, and "none" takes nothing away.
//
// conmon cuts a path at a colon in it; here the path is all that follows the
// first one.
func (l *Log) add(text string) (problem string) {
	driver, path, hasColon := strings.Cut(text, ":")
	for hasColon && strings.HasPrefix(path, ":") {
		path = path[1:]
	}
	switch {
	case driver == "" && path == "":
		return "log-path must not be empty"
	case driver == "": // ":none" is a file
		l.File = path
		return ""
	}
	switch driver {
	case "off", "null", "none":
	case "passthrough":
		l.Passthrough = true
	case "journald":
		l.Journal = true
	case "k8s-file":
		if path == "" {
			return "k8s-file requires a filename"
		}
		l.File = path
	default:
		if hasColon {
			return "No such log driver " + driver
		}
		l.File = driver
	}
	return ""
}

func checkLabel(label string) (problem string) {
	name, _, _ := strings.Cut(label, "=")
	switch {
	case strings.HasPrefix(label, "="):
		return "Container labels must be in format LABEL=VALUE (no LABEL present in '" + label + "')"
	case strings.Count(label, "=") != 1:
		return "Container labels must be in format LABEL=VALUE (none or more than one '=' present in '" + label + "')"
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; c != '_' && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return "Container label names must contain only uppercase letters, numbers and underscore (in '" + label + "')"
		}
	}
	return ""
}
