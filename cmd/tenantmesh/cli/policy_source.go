package cli

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/policy/analysis"
	"github.com/tenantmesh/tenantmesh/policy/authz"
	"github.com/tenantmesh/tenantmesh/tenantstore"
)

// policySource is where objects for an analysis come from: files, or without any the live mesh.
type policySource struct {
	files  []string
	client func() *adminclient.Client
}

func addSource(cmd *cobra.Command) *policySource {
	s := &policySource{client: addAdmin(cmd)}
	for flag, kind := range map[string]tenantstore.Kind{"tenant": tenantstore.KindTenant, "workload": tenantstore.KindWorkload} {
		if cmd.Flags().Lookup(flag) != nil {
			_ = cmd.RegisterFlagCompletionFunc(flag, completeNames(s.client, kind))
		}
	}
	cmd.Flags().StringSliceVarP(&s.files, "filename", "f", nil, "file, folder, REVISION:PATH in git, or - for standard input; may be given again (default: the live mesh)")
	return s
}

// analysed are the kinds that an analysis looks at.
var analysed = []tenantstore.Kind{
	tenantstore.KindCell, tenantstore.KindTier, tenantstore.KindTenant, tenantstore.KindWorkload, tenantstore.KindAccessPolicy, tenantstore.KindAccessGrant,
	tenantstore.KindAccessInvariant, tenantstore.KindRollout,
}

func (s *policySource) objects(cmd *cobra.Command) (map[tenantstore.Key]*tenantstore.Object, error) {
	objects := map[tenantstore.Key]*tenantstore.Object{}
	if len(s.files) == 0 {
		for _, kind := range analysed {
			info, err := tenantstore.ParseKind(string(kind))
			if err != nil {
				return nil, err
			}
			list, err := s.client().List(cmd.Context(), info)
			if err != nil {
				return nil, command.WithHint(err, "name files with -f, or the control plane's socket with --admin")
			}
			for _, o := range list.Items {
				objects[o.Key()] = o
			}
		}
		return objects, nil
	}
	var documents []*tenantstore.Document
	for _, name := range s.files {
		found, err := readSource(cmd, name)
		if err != nil {
			return nil, err
		}
		documents = append(documents, found...)
	}
	var problems tenantstore.Problems
	for _, d := range documents {
		o := d.Object
		var wrong tenantstore.Problems
		if objects[o.Key()] != nil {
			wrong = append(wrong, tenantstore.Problem{Object: o.Key().String(), Text: "must be given once (got it again)"})
		}
		objects[o.Key()] = o
		for _, p := range accessProblems(o) {
			wrong = append(wrong, tenantstore.Problem{Object: o.Key().String(), Path: "spec." + p.Field, Text: p.Text})
		}
		problems = append(problems, tenantstore.Locate([]*tenantstore.Document{d}, wrong)...)
	}
	if len(problems) > 0 {
		return nil, command.Fail(command.BadData, "every problem is listed", "%s\n%w", counted(len(problems), "problem"), problems)
	}
	return objects, nil
}

// accessProblems is what is wrong with an object that an analysis would stumble over.
func accessProblems(o *tenantstore.Object) authz.FieldProblems {
	switch o.Kind {
	case tenantstore.KindAccessPolicy:
		return authz.CheckSpec(*o.AccessPolicy)
	case tenantstore.KindAccessGrant:
		return authz.CheckSpec(authz.AsPolicy("", *o.AccessGrant, 0).Spec)
	case tenantstore.KindAccessInvariant:
		return analysis.CheckInvariant(o.AccessInvariant)
	default:
		return nil
	}
}

// readSource reads a file, a folder, or what a revision in git had of either.
func readSource(cmd *cobra.Command, name string) ([]*tenantstore.Document, error) {
	if _, err := os.Stat(name); err == nil || !strings.Contains(name, ":") {
		return readFiles(cmd, []string{name})
	}
	files, err := inGit(cmd, name)
	if err != nil {
		return nil, err
	}
	var documents []*tenantstore.Document
	var problems tenantstore.Problems
	for _, file := range files {
		text, err := git(cmd, "cat-file", "blob", file)
		if err != nil {
			return nil, err
		}
		found, err := tenantstore.DecodeYAML(file, bytes.NewReader(text))
		var wrong tenantstore.Problems
		if err != nil && !errors.As(err, &wrong) {
			return nil, err
		}
		problems, documents = append(problems, wrong...), append(documents, found...)
	}
	if len(problems) > 0 {
		return nil, badData(problems)
	}
	return documents, nil
}

// inGit are the files of objects at REVISION:PATH, in git's words.
func inGit(cmd *cobra.Command, name string) ([]string, error) {
	revision, at, _ := strings.Cut(name, ":")
	name = revision + ":./" + strings.TrimSuffix(at, "/") // of this folder, not of the repository's
	kind, err := git(cmd, "cat-file", "-t", name)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(string(kind)) == "blob" {
		return []string{name}, nil
	}
	list, err := git(cmd, "ls-tree", "--full-tree", "--name-only", "-z", name)
	if err != nil {
		return nil, err
	}
	var files []string
	for file := range strings.SplitSeq(string(list), "\x00") {
		if slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(file)) {
			files = append(files, strings.TrimSuffix(name, "/")+"/"+file)
		}
	}
	return files, nil
}

// git runs git with arguments that name no option by a revision.
func git(cmd *cobra.Command, args ...string) ([]byte, error) {
	if last := args[len(args)-1]; strings.HasPrefix(last, "-") {
		return nil, usageError("such as main:policies", "a revision must not begin with - (got %q)", last)
	}
	var out, complaint bytes.Buffer
	run := exec.CommandContext(cmd.Context(), "git", args...)
	run.Stdout, run.Stderr = &out, &complaint
	err := run.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, command.Fail(command.Failed, "install git, or name files", "git is needed to read %s: %w", args[len(args)-1], err)
	}
	if err != nil {
		return nil, command.Fail(command.BadData, "REVISION:PATH, such as main:policies; a path is of this folder", "git %s: %s", strings.Join(args, " "), strings.TrimSpace(complaint.String()))
	}
	return out.Bytes(), nil
}
