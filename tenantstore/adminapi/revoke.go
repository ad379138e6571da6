package adminapi

import "context"

type revokeInput struct {
	Txn    string `path:"txn"`
	Reason string `query:"reason" maxLength:"1000"`
}

func (s *server) revokeToken(ctx context.Context, in *revokeInput) (*body, error) {
	return applied(s.Writer.RevokeToken(ctx, actor(ctx), in.Txn, in.Reason))
}
