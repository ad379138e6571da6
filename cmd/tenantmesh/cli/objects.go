package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/tenantmesh/tenantmesh/cmd/tenantmesh/adminclient"
	"github.com/tenantmesh/tenantmesh/internal/command"
	"github.com/tenantmesh/tenantmesh/policy/analysis"
	"github.com/tenantmesh/tenantmesh/tenantstore"
	"github.com/tenantmesh/tenantmesh/tenantstore/adminapi"
	"github.com/tenantmesh/tenantmesh/tenantstore/memstore"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// source are files of objects, as flags name them.
type source struct {
	files []string
	keys  string // folder of the files of keys that objects may name
}

func (s *source) flags(flags *pflag.FlagSet) {
	flags.StringSliceVarP(&s.files, "filename", "f", nil, "file, folder, or - for standard input; may be given again")
	flags.StringVar(&s.keys, "jwks-folder", "", "folder of the files that TokenIssuers name as jwks.file (default: none may)")
}

// read reads the files, and the keys that their objects name.
func (s *source) read(cmd *cobra.Command) ([]*tenantstore.Document, error) {
	documents, err := readFiles(cmd, s.files)
	if err != nil {
		return nil, err
	}
	var problems tenantstore.Problems
	for _, d := range documents {
		problems = append(problems, tenantstore.Locate([]*tenantstore.Document{d}, tenantstore.ResolveFiles([]*tenantstore.Object{d.Object}, s.keys))...)
	}
	if len(problems) > 0 {
		return nil, badData(problems)
	}
	return documents, nil
}

// readFiles reads objects from files, folders (their *.yaml, *.yml and *.json) or "-". What they name is left alone.
func readFiles(cmd *cobra.Command, paths []string) ([]*tenantstore.Document, error) {
	if len(paths) == 0 {
		return nil, usageError("such as -f mesh.yaml, or -f - for standard input", "-f must name a file")
	}
	var documents []*tenantstore.Document
	var problems tenantstore.Problems
	read := func(name string, r io.Reader) error {
		found, err := tenantstore.DecodeYAML(name, r)
		var wrong tenantstore.Problems
		if errors.As(err, &wrong) {
			problems = append(problems, wrong...)
			return nil
		}
		documents = append(documents, found...)
		return err
	}
	for _, path := range paths {
		if path == "-" {
			if err := read("standard input", cmd.InOrStdin()); err != nil {
				return nil, err
			}
			continue
		}
		files, err := expand(path)
		if err != nil {
			return nil, command.Fail(command.BadData, "", "%w", err)
		}
		for _, name := range files {
			file, err := os.Open(name)
			if err != nil {
				return nil, command.Fail(command.BadData, "", "%w", err)
			}
			err = read(name, file)
			_ = file.Close()
			if err != nil {
				return nil, err
			}
		}
	}
	if len(problems) > 0 {
		return nil, badData(problems)
	}
	return documents, nil
}

func expand(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	var files []string
	for _, pattern := range []string{"*.yaml", "*.yml", "*.json"} {
		found, err := filepath.Glob(filepath.Join(path, pattern))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}

func badData(problems tenantstore.Problems) error {
	return command.Fail(command.BadData, "nothing was applied; every problem is listed", "%s\n%w", counted(len(problems), "problem"), problems)
}

// located gives the server's problems the lines of the files.
func located(err error, documents []*tenantstore.Document) error {
	var problems tenantstore.Problems
	if errors.As(err, &problems) {
		return badData(tenantstore.Locate(documents, problems))
	}
	return err
}

func objectsOf(documents []*tenantstore.Document) []*tenantstore.Object {
	objects := make([]*tenantstore.Object, len(documents))
	for i, d := range documents {
		objects[i] = d.Object
	}
	return objects
}

// applied is what apply prints with -o json.
type applied struct {
	adminapi.Applied
	Status *server.Status `json:"status,omitempty"`
	CutOff []cutOffMember `json:"cutOff,omitempty"`
}

func newApply() *cobra.Command {
	var files source
	var dryRun, wait, shadow, force bool
	var seconds int
	var rollout rolloutFlags
	var format output
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Write objects, all or none",
		Args:  command.Args(cobra.NoArgs),
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		documents, err := files.read(cmd)
		if err != nil {
			return err
		}
		if shadow && rollout.asked() {
			return usageError("watch it first, then abort that and roll it out", "--shadow must be without --rollout")
		}
		result, rolled, err := rollout.start(cmd, client(), documents, dryRun)
		switch {
		case rolled || err != nil:
		case shadow:
			result, err = startShadow(cmd, client(), documents, dryRun)
		case force:
			result, err = client().ApplyAnyway(cmd.Context(), objectsOf(documents), dryRun)
		default:
			result, err = client().Apply(cmd.Context(), objectsOf(documents), dryRun)
		}
		if err != nil {
			return located(err, documents)
		}
		out := applied{Applied: result}
		if wait && !dryRun {
			status, err := awaited(cmd, client(), result.Revision, seconds)
			if err != nil {
				return err
			}
			out.Status, out.CutOff = &status, cutOff(status, result.Changes)
		}
		if err := format.print(cmd.OutOrStdout(), out, func(w io.Writer) {
			for _, c := range out.Changes {
				fmt.Fprintf(w, "%-9s %s\n", c.Action, c.Object)
			}
			if dryRun {
				fmt.Fprintln(w, "dry run: nothing was written")
			} else if out.Status != nil {
				fmt.Fprintln(w, enforced(*out.Status, out.CutOff...))
			} else {
				fmt.Fprintf(w, "revision %d\n", out.Revision)
			}
		}); err != nil {
			return err
		}
		return out.everywhere()
	}
	flags := cmd.Flags()
	files.flags(flags)
	flags.BoolVar(&dryRun, "dry-run", false, "validate and say what would change")
	flags.BoolVar(&force, "force", false, "turn a Workload's tenancy from observe to require whatever 'tenantmesh coverage' says")
	flags.BoolVar(&wait, "wait", false, "wait until every connected sidecar enforces it")
	flags.IntVar(&seconds, "timeout", 30, "seconds to wait")
	flags.BoolVar(&shadow, "shadow", false, "of AccessPolicies: have sidecars count what the change would do, and leave what is in force ('tenantmesh policy shadow')")
	rollout.flags(flags)
	_ = cmd.RegisterFlagCompletionFunc("rollout-tenants", completeNames(client, tenantstore.KindTenant))
	addOutput(cmd, &format)
	return cmd
}

// awaited waits until a revision is enforced, and on a terminal says how far it is.
func awaited(cmd *cobra.Command, client *adminclient.Client, revision int64, seconds int) (status server.Status, err error) {
	screen, isFile := cmd.ErrOrStderr().(*os.File)
	if !isFile || !isTerminal(screen) {
		return client.Status(cmd.Context(), revision, true, seconds)
	}
	for range seconds {
		if status, err = client.Status(cmd.Context(), revision, true, 1); err != nil || status.Done() || status.Enforced+status.Refused == status.Total {
			break
		}
		fmt.Fprintf(screen, "\r%s", enforced(status))
	}
	fmt.Fprint(screen, "\r\033[K")
	return status, err
}

func isTerminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

func short(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }

func completeKinds(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, info := range tenantstore.Kinds() {
		names = append(names, info.Plural)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func parseKind(s string) (tenantstore.KindInfo, error) {
	info, err := tenantstore.ParseKind(s)
	if err != nil {
		return info, usageError("", "%w", err)
	}
	return info, nil
}

func newGet() *cobra.Command {
	var format output
	cmd := &cobra.Command{
		Use: "get KIND [NAME]", Short: "Show objects", Args: command.Args(cobra.RangeArgs(1, 2)), ValidArgsFunction: completeKinds,
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind, err := parseKind(args[0])
		if err != nil {
			return err
		}
		if len(args) == 2 {
			object, err := client().Get(cmd.Context(), kind, args[1])
			if err != nil {
				return err
			}
			return format.print(cmd.OutOrStdout(), object, func(w io.Writer) { objectTable(w, kind.Kind, []*tenantstore.Object{object}) })
		}
		list, err := client().List(cmd.Context(), kind)
		if err != nil {
			return err
		}
		return format.print(cmd.OutOrStdout(), list.Items, func(w io.Writer) { objectTable(w, kind.Kind, list.Items) })
	}
	addOutput(cmd, &format)
	return cmd
}

// tableOf says which columns a kind has, after its name.
var tableOf = map[tenantstore.Kind]struct {
	head []string
	row  func(*tenantstore.Object) []string
}{
	tenantstore.KindCell: {[]string{"REGION", "RESIDENCY", "POOL", "STATE", "FREE CPU", "FREE DB"}, func(o *tenantstore.Object) []string {
		c := o.Cell
		return []string{c.Region, c.Residency, either(string(c.Pool), "shared"), either(string(c.State), "Active"), fmt.Sprintf("%.0f%%", 100*c.Capacity.FreeCPU), strconv.Itoa(c.Capacity.FreeDBConn)}
	}},
	tenantstore.KindTenant: {[]string{"TIER", "PHASE", "CELL", "STATE", "EPOCH", "RESIDENCY"}, func(o *tenantstore.Object) []string {
		row := []string{o.Tenant.Tier, string(o.Status.Phase), "", "", "", o.Tenant.Residency}
		if p := o.Status.Placement; p != nil {
			row[2], row[3], row[4] = p.Cell, string(p.State), strconv.FormatInt(p.Epoch, 10)
		}
		return row
	}},
	tenantstore.KindWorkload: {[]string{"TENANCY", "EXPOSED AT", "DEPENDS ON", "BOUND TO"}, func(o *tenantstore.Object) []string {
		var exposed []string
		for _, e := range o.Workload.Expose {
			exposed = append(exposed, e.Host+e.PathPrefix)
		}
		return []string{either(string(o.Workload.Tenancy), "require"), strings.Join(exposed, ","), strings.Join(o.Workload.DependsOn, ","), o.Workload.BoundTenant}
	}},
	tenantstore.KindAccessPolicy: {[]string{"EFFECT", "MODE", "PRINCIPALS", "TARGETS"}, func(o *tenantstore.Object) []string {
		p := o.AccessPolicy
		var targets []string
		for _, t := range p.Targets {
			targets = append(targets, t.Workload)
		}
		return []string{string(p.Effect), either(string(p.Mode), "Enforce"), strings.Join(p.Principals, ","), strings.Join(targets, ",")}
	}},
	tenantstore.KindAccessInvariant: {[]string{"WHAT MUST HOLD"}, func(o *tenantstore.Object) []string {
		return []string{(&analysis.Invariant{AccessInvariantSpec: *o.AccessInvariant}).String()}
	}},
	tenantstore.KindRoleBinding: {[]string{"ROLE", "WORKLOADS", "TENANTS", "PRINCIPALS"}, func(o *tenantstore.Object) []string {
		b := o.RoleBinding
		return []string{string(b.Role), strings.Join(b.Workloads, ","), strings.Join(b.Tenants, ","), strings.Join(b.Principals, ",")}
	}},
	tenantstore.KindMember: {[]string{"ROLE", "CELL", "WORKLOAD", "ENVOY", "LEFT"}, func(o *tenantstore.Object) []string {
		m := o.Member
		return []string{string(m.Role), m.Cell, m.Workload, m.Envoy, strconv.FormatBool(m.Left)}
	}},
	tenantstore.KindEndpoint: {[]string{"CELL", "WORKLOAD", "ADDRESS", "READY"}, func(o *tenantstore.Object) []string {
		e := o.Endpoint
		return []string{e.Cell, e.Workload, fmt.Sprintf("%s:%d", e.Address, e.Port), strconv.FormatBool(e.Ready)}
	}},
}

func either(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

func objectTable(w io.Writer, kind tenantstore.Kind, objects []*tenantstore.Object) {
	table := tableOf[kind]
	rows := make([][]string, len(objects))
	for i, o := range objects {
		rows[i] = []string{o.Metadata.Name}
		if table.row != nil {
			rows[i] = append(rows[i], table.row(o)...)
		}
		rows[i] = append(rows[i], strconv.FormatInt(o.Metadata.Revision, 10))
	}
	columns(w, append(append([]string{"NAME"}, table.head...), "REVISION"), rows)
}

func newDelete() *cobra.Command {
	var shadow bool
	cmd := &cobra.Command{
		Use: "delete KIND NAME", Short: "Delete an object", Args: command.Args(cobra.ExactArgs(2)), ValidArgsFunction: completeKinds,
	}
	client := addAdmin(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind, err := parseKind(args[0])
		if err != nil {
			return err
		}
		if shadow {
			return shadowRemoval(cmd, client(), kind, args[1])
		}
		result, err := client().Delete(cmd.Context(), kind, args[1])
		if err != nil {
			return located(err, nil)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "deleted   %s/%s\nrevision %d\n", kind.Kind, args[1], result.Revision)
		return nil
	}
	cmd.Flags().BoolVar(&shadow, "shadow", false, "of an AccessPolicy: have sidecars count what that would do, and leave it in force ('tenantmesh policy shadow')")
	return cmd
}

// offline is a store in memory that holds the files.
func offline(cmd *cobra.Command, files *source) (tenantstore.Snapshot, int, error) {
	documents, err := files.read(cmd)
	if err != nil {
		return tenantstore.Snapshot{}, 0, err
	}
	store := memstore.New()
	defer store.Close()
	if _, err := tenantstore.NewWriter(store, now).Apply(cmd.Context(), "files", objectsOf(documents), tenantstore.ApplyOptions{}); err != nil {
		return tenantstore.Snapshot{}, 0, located(err, documents)
	}
	snapshot, err := store.Snapshot(cmd.Context())
	return snapshot, len(documents), err
}

func newValidate() *cobra.Command {
	var files source
	cmd := &cobra.Command{
		Use: "validate -f FILE", Short: "Check objects that stand alone, without a control plane", Args: command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			snapshot, n, err := offline(cmd, &files)
			if err != nil {
				return err
			}
			for _, w := range tenantstore.Warnings(snapshot.Objects) {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %v\n", w)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d objects are valid\n", n)
			return nil
		},
	}
	files.flags(cmd.Flags())
	return cmd
}

// counted is a number of things, in words.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
