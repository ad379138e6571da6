// Package deploy holds what deploy/ says against what there is: unit files are read as systemd does, the installer runs, and
// what it installed is run in the order that the units say, as their users, with their capabilities alone.
//
// The chart and the images are tested in deploy/, a module of its own because of what it links.
package deploy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const systemdDir = "../../deploy/systemd"

// unit is a unit file with its drop-ins: values by key, in their order. Keys of all sections are told apart by their names.
type unit struct {
	name   string
	values map[string][]string
}

// readUnit reads a unit from its files. Its name's instance is put in for %i, its name without ".service" for %N.
func readUnit(t *testing.T, name string, files ...string) unit {
	t.Helper()
	u := unit{name: name, values: map[string][]string{}}
	stem := strings.TrimSuffix(name, ".service")
	_, instance, _ := strings.Cut(stem, "@")
	for _, file := range files {
		text, err := os.ReadFile(file)
		check(t, err)
		for line := range strings.Lines(strings.NewReplacer("%i", instance, "%N", stem).Replace(string(text))) {
			key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
			if ok && !strings.HasPrefix(key, "#") {
				u.values[key] = append(u.values[key], value)
			}
		}
	}
	return u
}

// installed reads an installed unit, of a machine whose root is there.
func installed(t *testing.T, root, name string) unit {
	t.Helper()
	template := name
	if before, rest, ok := strings.Cut(name, "@"); ok {
		template = before + "@" + rest[strings.LastIndex(rest, "."):]
	}
	dir := filepath.Join(root, "etc/systemd/system")
	dropIns, err := filepath.Glob(filepath.Join(dir, name+".d", "*.conf"))
	check(t, err)
	return readUnit(t, name, append([]string{filepath.Join(dir, template)}, dropIns...)...)
}

// one is a key's last value, "" for none.
func (u unit) one(key string) string {
	if values := u.values[key]; len(values) > 0 {
		return values[len(values)-1]
	}
	return ""
}

// words are the words of a key's values.
func (u unit) words(key string) []string { return strings.Fields(strings.Join(u.values[key], " ")) }

// command is a command line, with the environment's variables put in: $A as words, ${A} as it is.
func (u unit) command(line string, environment map[string]string) []string {
	var args []string
	for _, word := range split(line) {
		if name, ok := strings.CutPrefix(word, "$"); ok && !strings.HasPrefix(name, "{") {
			args = append(args, strings.Fields(environment[name])...)
			continue
		}
		args = append(args, os.Expand(word, func(name string) string { return environment[name] }))
	}
	return args
}

// split splits a command line at spaces, but for what is within single quotes.
func split(line string) (words []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 0 {
			words = append(words, strings.Fields(part)...)
		} else {
			words = append(words, part)
		}
	}
	return words
}

// order sorts units as systemd starts them: by After= among them.
func order(units []unit) []unit {
	var sorted []unit
	for left := slices.Clone(units); len(left) > 0; {
		i := slices.IndexFunc(left, func(u unit) bool {
			return !slices.ContainsFunc(left, func(other unit) bool { return slices.Contains(u.words("After"), other.name) })
		})
		if i < 0 {
			return nil // a circle
		}
		sorted, left = append(sorted, left[i]), slices.Delete(left, i, i+1)
	}
	return sorted
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
