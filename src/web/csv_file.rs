//! Answers with a CSV file that is read and sent piece by piece: the Audit Log's and the Route Report's.
//! What stands in it is theirs.

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};

/// The file `name`. `piece` gives the next bytes, and what makes those behind them; a failure cuts the file off, so that
/// nobody takes it for whole.
pub fn answer<Next, Piece>(name: &str, next: Next, piece: impl Fn(Next) -> Piece + Send + 'static) -> Response
where
    Next: Send + 'static,
    Piece: Future<Output = anyhow::Result<(Vec<u8>, Option<Next>)>> + Send,
{
    let pieces = futures_util::stream::try_unfold((Some(next), piece), |(next, piece)| async move {
        let Some(next) = next else { return Ok::<_, anyhow::Error>(None) };
        let (bytes, next) = piece(next).await?;
        Ok(Some((bytes, (next, piece))))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}
