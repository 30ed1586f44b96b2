# Copyright: Flotilla contributors
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
"""The preflight's look at S3: the data set, the model's folder, the program."""

from __future__ import annotations

from ansible_collections.flotilla.kit.plugins.module_utils import (
    aws,
    dataset_manifest,
    s3_urls,
)
from ansible_collections.flotilla.kit.plugins.module_utils.preflight import findings


class Storage(findings.Findings):
    """Data set, model's folder and program."""

    def bucket(self, bucket: str, variable: str) -> bool:
        """Check that a bucket is there and may be looked at; warn when it is in another region."""
        client = self.aws.client("s3")
        try:
            answer = client.head_bucket(Bucket=bucket)
        except Exception as error:
            status = aws.code(error)
            if status in ("404", "NoSuchBucket"):
                self.problems.append(
                    f"The bucket {bucket} of {variable} isn't there: make it, or correct the variable."
                )
            elif status == "403":
                self.problems.append(
                    f"The bucket {bucket} of {variable} may not be read by {self.result['arn']}: "
                    "it is somebody else's, or your policy lacks s3:ListBucket on it."
                )
            else:
                self.problems.append(aws.explain(error, f"look at the bucket {bucket}", self.aws.profile))
            return False
        region = answer.get("BucketRegion")
        if region and region != self.p["region"]:
            self.warnings.append(
                f"The bucket {bucket} is in {region}, the fleet in {self.p['region']}: "
                "traffic between them costs money and time."
            )
        return True

    def dataset(self) -> None:
        """Read the data set's manifest and compare it with the objects."""
        url = self.p["dataset_source"]
        self.result["dataset"] = {}
        if not url:
            return
        bucket, prefix = s3_urls.split_folder(url)
        if not self.bucket(bucket, "dataset_source"):
            return
        where = f"s3://{bucket}/{prefix}manifest.json"
        try:
            body = self.aws.client("s3").get_object(Bucket=bucket, Key=prefix + "manifest.json")["Body"].read()
        except Exception as error:
            if aws.code(error) in ("404", "NoSuchKey"):
                self.problems.append(
                    f"The data set {url} has no manifest ({where} isn't there): "
                    "upload it with the dataset command, which writes one, or correct dataset_source."
                )
            else:
                self.problems.append(aws.explain(error, f"read {where}", self.aws.profile))
            return
        splits = () if self.p["program"] else dataset_manifest.SPLITS
        manifest, problems = dataset_manifest.check_manifest(body.decode("utf-8", "replace"), where, splits)
        self.check(problems)
        if manifest is None:
            return
        objects = self.aws.pages(
            f"list s3://{bucket}/{prefix}",
            "s3",
            "list_objects_v2",
            "Contents",
            Bucket=bucket,
            Prefix=prefix,
        )
        sizes = {item["Key"].removeprefix(prefix): item["Size"] for item in objects}
        self.check(dataset_manifest.check_objects(manifest, sizes, url))
        self.check(dataset_manifest.check_batch(self.p["batch_size"], manifest, url))
        self.result["dataset"] = {
            "name": manifest["name"],
            "files": len(manifest["files"]),
            "bytes": sum(entry["size"] for entry in manifest["files"]),
            "records": sum(entry["records"] for entry in manifest["files"]),
        }

    def model(self) -> None:
        """Prove that the model's folder may be written to, and leave nothing there."""
        url = self.p["model_target"]
        if not url:
            return
        bucket, prefix = s3_urls.split_folder(url)
        if not self.bucket(bucket, "store_target"):
            return
        client = self.aws.client("s3")
        key = prefix + ".flotilla-write-test"
        try:
            upload = client.create_multipart_upload(Bucket=bucket, Key=key)
            client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload["UploadId"])
        except Exception as error:
            self.problems.append(aws.explain(error, f"write to {url} (store_target)", self.aws.profile))

    def program(self) -> None:
        """Look at the program from where the nodes will fetch it, if that is S3."""
        url = self.p["program"]
        if not url.startswith("s3://"):
            return
        bucket, key = s3_urls.split_program(url)
        try:
            size = self.aws.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"]
        except Exception as error:
            status = aws.code(error)
            if status in ("404", "NoSuchBucket", "NoSuchKey"):
                self.problems.append(
                    f"There is no object {key} in the bucket {bucket}, or no such bucket: upload the program there, "
                    "or correct training_program."
                )
            elif status == "403":
                self.problems.append(
                    f"The object {key} in the bucket {bucket} (training_program) may not be read by "
                    f"{self.result['arn']}: it isn't there, or your policy lacks s3:GetObject on it."
                )
            else:
                self.problems.append(aws.explain(error, f"look at {url} (training_program)", self.aws.profile))
            return
        if size > s3_urls.PROGRAM_LIMIT:
            self.problems.append(
                f"training_program {url} is larger than {s3_urls.PROGRAM_LIMIT // 10**6} MB: "
                "data belong into dataset_source."
            )
