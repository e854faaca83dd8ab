//! A connection of a role, and what the server refuses it.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use envicutor::bus::Role;
use tokio::sync::mpsc;

use crate::fleet::nats::TestNats;

/// How long a condition may take to come about.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A connection that hears what it was refused.
pub struct Watched {
    pub client: Client,
    refusals: mpsc::UnboundedReceiver<String>,
}

impl Watched {
    pub async fn connect(nats: &TestNats, role: Role) -> Self {
        let (tell, refusals) = mpsc::unbounded_channel();
        let (user, password) = nats.login(role);
        let options = ConnectOptions::with_user_and_password(user, password)
            .custom_inbox_prefix(role.inbox_prefix())
            .event_callback(move |event| {
                let tell = tell.clone();
                async move {
                    if let Event::ServerError(error) = event {
                        let _ = tell.send(error.to_string());
                    }
                }
            });
        let client = options.connect(nats.address()).await.expect("connected");
        Self { client, refusals }
    }

    async fn is_refused(&mut self, subject: &str) {
        let refusal = tokio::time::timeout(DEADLINE, self.refusals.recv()).await;
        let refusal = refusal
            .unwrap_or_else(|_| panic!("{subject} is not refused"))
            .expect("open");
        assert!(
            refusal.to_lowercase().contains(&subject.to_lowercase()),
            "{subject}: {refusal}"
        );
    }

    pub async fn may_not_publish(&mut self, subjects: &[&str]) {
        for subject in subjects {
            self.client
                .publish(subject.to_string(), "".into())
                .await
                .expect("sent");
            self.is_refused(subject).await;
        }
    }

    pub async fn may_not_subscribe(&mut self, subjects: &[&str]) {
        for subject in subjects {
            let _subscriber = self
                .client
                .subscribe(subject.to_string())
                .await
                .expect("sent");
            self.is_refused(subject).await;
        }
    }
}
