//! The page that waits for long work: where it leads, and what it says of work that did not end well.
//! The page of the same name in `src/web`.

use outgate::{
    mail::id::JobId,
    policy::Role,
    store::{self, OrganizationTransaction, job::About},
};
use reqwest::{Method, StatusCode};
use sqlx::PgPool;

use super::page_of;
use crate::support::{Browser, Installation, Pages, Tenant};

struct Scene {
    installation: Installation,
    acme: Tenant,
    admin: Browser,
    job: JobId,
    path: String,
}

/// Work that has just begun.
async fn scene(db: PgPool) -> Scene {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let job = JobId::new();
    let path = page_of(&acme, &format!("progress/{job}"));
    let scene = Scene { installation, acme, admin, job, path };
    let mut transaction = scene.begin().await;
    store::job::start(&mut transaction, scene.acme.id, job, ("Importing accounts", About::Accounts), 100, "operator")
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    scene
}

impl Scene {
    async fn begin(&self) -> OrganizationTransaction {
        OrganizationTransaction::begin(&self.installation.owner, self.acme.id).await.unwrap()
    }
}

#[sqlx::test]
async fn work_of_a_process_that_is_gone_is_said_to_be_interrupted(db: PgPool) {
    let scene = scene(db).await;
    let running = scene.admin.get(&scene.path).await;
    assert!(running.text().contains("Importing accounts"), "{}", running.text());
    assert!(!running.text().contains("nterrupted"), "{}", running.text());
    sqlx::query("update job set seen_at = now() - interval '31 seconds'")
        .execute(&scene.installation.owner)
        .await
        .unwrap();
    let gone = scene.admin.get(&scene.path).await;
    assert_eq!(gone.status, StatusCode::OK);
    assert!(
        gone.text().contains("nothing was changed") || gone.text().contains("Nothing was changed"),
        "{}",
        gone.text()
    );
}

#[sqlx::test]
async fn work_that_failed_says_why_and_work_that_is_done_leads_to_its_result(db: PgPool) {
    let scene = scene(db).await;
    let mut transaction = scene.begin().await;
    store::job::fail(&mut transaction, scene.acme.id, scene.job, "The <file> is gone.").await.unwrap();
    transaction.commit().await.unwrap();
    let failed = scene.admin.get(&scene.path).await;
    assert!(failed.text().contains("The <file> is gone."), "{}", failed.text());
    let mut transaction = scene.begin().await;
    let next = page_of(&scene.acme, "gateways");
    store::job::finish(&mut transaction, scene.acme.id, scene.job, &next).await.unwrap();
    transaction.commit().await.unwrap();
    let done = scene.admin.once(scene.admin.request(Method::GET, &scene.path), &scene.path).await;
    assert_eq!((done.status, done.location()), (StatusCode::SEE_OTHER, next.as_str()));
}
