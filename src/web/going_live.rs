//! What is pending goes live when it has passed, whether or not somebody has a page open: a task beside the pages.
//! What it does is `store::pending_gateway`'s; several processes may do it at once.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::App;
use crate::store;

/// Between two looks while a verification is under way.
const SOON: Duration = Duration::from_millis(300);
/// Otherwise: for what another process has saved and did not live to see.
const NOW_AND_THEN: Duration = Duration::from_secs(5);

/// Wakes the task of this process.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<Notify>);

impl Bell {
    /// Something was saved that has to pass a verification, or one was asked for.
    pub fn ring(&self) {
        self.0.notify_one();
    }
}

/// Until `stop`.
pub async fn run(app: App, stop: CancellationToken) {
    let mut is_failing = false;
    loop {
        let Some(looked) = stop.run_until_cancelled(store::pending_gateway::look(&app.store)).await else { return };
        let pause = if matches!(looked, Ok(true)) { SOON } else { NOW_AND_THEN };
        if let Err(error) = &looked
            && !is_failing
        {
            tracing::warn!(%error, "what is pending could not be looked after");
        }
        is_failing = looked.is_err();
        // Not woken: it is time all the same.
        if stop.run_until_cancelled(timeout(pause, app.going_live.0.notified())).await.is_none() {
            return;
        }
    }
}
